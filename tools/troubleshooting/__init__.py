"""docs/troubleshooting.md, written from the code: errors with their messages, problems and symptoms.

``python -m tools.troubleshooting docs/troubleshooting.md`` writes it.
"""
