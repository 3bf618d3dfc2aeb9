"""Task interaction (TIM): which task teaches which.

TIM explains the output space as feature importance explains the input space. The paper names the
score; the definitions here are ours (see interaction.py).
"""

from m3h_core.tim.bench import Bench
from m3h_core.tim.groups import TaskGroups, task_groups
from m3h_core.tim.interaction import (
    METHODS,
    TaskInteraction,
    light,
    measured_interaction,
    task_interaction,
)
from m3h_core.tim.leave_out import LeftOut, leave_one_task_out

__all__ = [
    "METHODS",
    "Bench",
    "LeftOut",
    "TaskGroups",
    "TaskInteraction",
    "leave_one_task_out",
    "light",
    "measured_interaction",
    "task_groups",
    "task_interaction",
]
