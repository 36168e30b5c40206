"""Pictures take most of the time of a small run: few tests have any."""

import pytest


@pytest.fixture
def comparisons():
    """What a test asks for whose sweeps are to be drawn."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Runs of this process are not drawn, and sweeps only where a test asks for it."""
    monkeypatch.setattr("jax_ssp.report.timeline.run_summary", lambda *_: None)
    if "comparisons" not in request.fixturenames:
        monkeypatch.setattr("jax_ssp.report.sweep.sweep_figure", lambda *_: None)
