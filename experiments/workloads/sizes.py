"""The sizes of a config: `--size` on the command line."""

from typing import Literal, TypeAlias

Size: TypeAlias = Literal["smoke", "laptop", "paper"]
"""smoke runs in seconds, laptop takes minutes on 2 cores, paper is as large as the paper's."""
