"""`python -m meshhook` is `meshhook`."""

from meshhook.cli import main

if __name__ == "__main__":
    main()
