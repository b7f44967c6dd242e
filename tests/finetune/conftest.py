"""A chat template for the tests of preferences and of reinforcement learning, which read it and do not change it."""

import pytest

from tests.finetune.small import small_template


@pytest.fixture(scope="session")
def template():
    return small_template()
