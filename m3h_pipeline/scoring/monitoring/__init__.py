"""What has changed since the champion was trained: inputs, what is missing, scores, and how good
they are.

At its registration a model is given a *reference*: of each feature how often its values fell into a
few bins among the training samples, and of each task the same of its scores on samples that it had
not learned from (of what it learned, a network is surer). Bins are chosen so that each holds at
least 10 samples, and their ends are rounded: no patient's value is in it, and no count tells of a
few.

Each night the samples that are new to the champion are counted into the same bins. How far they are
off is the total variation distance: the share of samples that would have to change place. Whether
that can be chance is asked by a chi-squared test, by Fisher's for missing values, with the false
discovery rate held over all features. A change counts where both say so: the test alone would call
any difference one once a hospital is large enough, the distance alone would at first be mostly
noise. Samples of one patient are no independent ones: counts are divided by their design effect, of
which the reference holds that of its own.

Performance is judged on labels that have arrived since: no version learned from a label that was
not there.
"""
