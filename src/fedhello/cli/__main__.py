"""``python -m fedhello.cli``."""

from fedhello.cli.main import main

main()
