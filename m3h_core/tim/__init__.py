"""Task interaction (TIM): which task teaches which.

TIM explains the output space as feature importance explains the input space. The paper names the
score; the definitions here are ours (see interaction.py).
"""

from m3h_core.tim.evaluator import Progress, TaskSetEvaluator
from m3h_core.tim.groups import TaskGroups, task_groups
from m3h_core.tim.interaction import METHODS, measure_interaction, task_interaction
from m3h_core.tim.joint_learning import JointLearning, measure_joint_learning
from m3h_core.tim.leave_out import LeftOut, leave_one_task_out
from m3h_core.tim.matrix import TaskInteraction
from m3h_core.tim.pairwise import N_COMPONENTS, shrink_network

__all__ = [
    "METHODS",
    "N_COMPONENTS",
    "JointLearning",
    "LeftOut",
    "Progress",
    "TaskGroups",
    "TaskInteraction",
    "TaskSetEvaluator",
    "leave_one_task_out",
    "measure_interaction",
    "measure_joint_learning",
    "shrink_network",
    "task_groups",
    "task_interaction",
]
