"""`python -m anneal.cli`."""

from anneal.cli import main

if __name__ == "__main__":
    main()
