"""`python -m depalm` is `depalm`."""

from depalm.cli import main

if __name__ == "__main__":
    main()
