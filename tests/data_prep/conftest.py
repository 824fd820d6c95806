import pytest
from voc_files import VocFolder


@pytest.fixture
def voc_folder(tmp_path):
    return VocFolder(tmp_path / "voc")
