"""A header's policy is no schedule of local steps, nor the other way round."""

import pytest

from jax_ssp.controller import ContractViolation, check_contract
from jax_ssp.controller.tape import Tape


@pytest.mark.parametrize(
    ("what", "recorded"), [("local_steps", {"type": "SSP"}), ("policy", {"type": "DyLU", "h": 4})]
)
def test_a_part_of_ours_in_the_place_of_another_is_refused(what, recorded):
    with pytest.raises(ContractViolation, match=f"the header's {what} cannot be"):
        check_contract(Tape({"bound": 3, "experiment": {what: recorded}}))
