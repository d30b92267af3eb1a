"""The experiment as typed models: every key with its meaning, unit and range; errors that say what to paste.

One file per section of config.yaml; `experiment` puts them together. Nothing about threads, paths or clusters is in here;
those belong to a profile.
"""

from tir.config.arms import Arm
from tir.config.command_line import typed
from tir.config.data import Source
from tir.config.evaluation import HelpersConfig
from tir.config.experiment import Config, load
from tir.config.tools import Tools
from tir.config.training import Reward, Rl, Sft

__all__ = ["Arm", "Config", "HelpersConfig", "Reward", "Rl", "Sft", "Source", "Tools", "load", "typed"]
