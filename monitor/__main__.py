"""`python -m monitor` is `modelwatch`."""

from monitor.cli import main

if __name__ == "__main__":
    main()
