"""MLflow's registry: runs, versions, gate, review, audit, and the model that is served.

A candidate is registered, the gate judges it, a person decides, and one function moves the aliases.
A decision is the tag ``validation_status`` (approved or rejected) of a version in MLflow, set in
its pages, or an audit line that ``m3h review`` writes.

Aliases: ``champion`` is what scores, ``previous`` the one before, ``challenger`` the last candidate
that passed the gate, ``anchor`` what candidates are compared with beside the champion. An alias
names one version, so there are never two champions. To reject the champion is to roll back.
"""
