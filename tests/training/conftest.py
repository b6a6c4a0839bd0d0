import pytest
from short_runs import write_faces


@pytest.fixture(scope="session")
def noise_faces(tmp_path_factory):
    """Folder with 8 training identities of 4 images in `train` and the benchmark `lfw` of 6 pairs."""
    return str(write_faces(tmp_path_factory.mktemp("noise")))
