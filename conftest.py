"""A worker on each core (pytest-xdist): notebooks that build on each other's outputs go to one worker, in their order."""

import pytest

CHAIN = ("01_", "02_", "03_", "04_")  # the others read nothing that a notebook wrote


@pytest.hookimpl(tryfirst=True)  # before xdist's own, which reads the marks
def pytest_collection_modifyitems(items):
    for item in items:
        parameters = getattr(item, "callspec", None)
        name = parameters.params.get("name", "") if parameters else item.path.stem
        if (
            item.get_closest_marker("xdist_group") is None
            and isinstance(name, str)
            and (item.path.suffix == ".ipynb" or item.path.parent.name == "runs")
        ):
            test = getattr(item, "originalname", "notebook")
            item.add_marker(pytest.mark.xdist_group(f"{test} {'chain' if name.startswith(CHAIN) else name}"))
