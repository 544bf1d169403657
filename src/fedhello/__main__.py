"""``python -m fedhello``, the command line."""

from fedhello.cli.main import main

main()
