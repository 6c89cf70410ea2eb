"""The first hour: recommend a set-up, write a project, show a demo."""
