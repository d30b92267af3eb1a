"""A finished workflow, made once per session, and a copy of it for each test that edits it."""

import shutil
from pathlib import Path

import pytest
from support.workflow_copy import copy_workflow, finish


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A workflow whose outputs all exist and are recorded as complete."""
    return finish(copy_workflow(tmp_path_factory.mktemp("finished")))


@pytest.fixture
def workflow(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"
