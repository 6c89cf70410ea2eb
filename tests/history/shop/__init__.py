"""An application whose tasks fail in many ways: ``make_corpus.py`` runs it. Each name in ``GROUPS`` is a group."""
