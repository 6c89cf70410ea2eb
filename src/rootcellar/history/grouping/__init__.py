"""Groups failures that have the same cause: by the exception's type and the place in the application's own code.

A worker imports this package only when a task fails.

``frames`` reads the text of a traceback, ``in_app`` finds the application's own frames, ``template`` removes what
differs between two messages of the same error, ``described`` reads a stored exception, ``own`` asks the application,
``identity`` makes the number of a group, and ``grouping`` combines them.
"""
