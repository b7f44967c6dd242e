"""What the tests of several files take."""

import pytest

from tests.gpt.small import small_gpt, small_llama


@pytest.fixture(params=[small_gpt, small_llama])
def small(request):
    """Makes a small model: such a test runs with GPTs, and with Llamas."""
    return request.param
