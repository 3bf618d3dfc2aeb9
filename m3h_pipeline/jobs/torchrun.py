"""PyTorch's own launcher, which does not outlive the process that started it: ``torchrun`` by
another name.

It puts its workers into sessions of their own, so nobody who ends its group reaches them: they go
with it (`m3h_pipeline.jobs.job.die_with_parent`), and it goes with whoever started it.
"""

from torch.distributed.run import main

from m3h_pipeline.jobs.job import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    main()
