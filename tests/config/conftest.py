"""Configuration files."""

import pytest


@pytest.fixture
def file(tmp_path):
    """Write a configuration file and return its path."""

    def write(content):
        path = tmp_path / "config.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write
