"""``python -m rootcellar`` is the command ``rootcellar``."""

from rootcellar.cli import main

if __name__ == "__main__":
    main()
