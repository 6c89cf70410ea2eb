"""docs/troubleshooting.md, made of the code: every error and its messages, every problem that `rootcellar check` names.

``python -m rootcellar.troubleshooting docs/troubleshooting.md`` writes it.
"""
