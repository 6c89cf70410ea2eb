"""docs/troubleshooting.md, written from the code: symptoms, errors and findings.

``python -m tools.troubleshooting docs/troubleshooting.md`` writes it.
"""
