# %% [markdown]
# # Speed and memory against length
#
# What a training step and a streamed token cost, all variants at the same sizes, beside the packages from PyPI that do
# the same. One forward and backward pass over random symbols, without an optimiser; streams are read in pieces with the
# state handed on. Time is CPU time of one thread, memory what the step adds at its peak. Each figure is of one process
# and the median of its repetitions: there are no seeds, so there are no intervals.
#
# Nothing is learned here. What the variants are worth at that price is in the notebook `overview`.

# %%
from analysis import efficiency
from analysis.notebook import show, table
from analysis.studies import load_study

LIVE = False  # True: also the rows in your own store

study = load_study("efficiency", live=LIVE)

# %% [markdown]
# ## Against length
#
# Full attention grows with the square of the length, all others linearly; its memory grows linearly too, as it never
# holds all scores. Packages are dashed and stand behind the variant that they correspond to; they have no state to hand
# on, so they are not streamed.

# %%
show(efficiency.length_figure(study), "efficiency_by_length", study)

# %% [markdown]
# ## Cost per token
#
# The same for each token: what is linear in the length is level here. Memory of training is that of all that the
# gradient needs.

# %%
show(efficiency.token_figure(study), "efficiency_per_token", study)

# %% [markdown]
# Each variant and package at the longest length; *grows* is how many times as much a token costs there as at the
# shortest. A variant with a state of constant size carries as many numbers after any length.

# %%
table(efficiency.token_table(study), study)

# %% [markdown]
# ## Beside the packages that do the same
#
# Ours over theirs, in training: above 1 ours is faster, or needs more memory. The same sizes do not make the same
# model: x-transformers, for one, attends to the whole sequence beside its memory tokens, where our `mat` reads
# segments. `experiments/peers.py` says of each package what differs.

# %%
show(efficiency.peer_figure(study), "efficiency_peers", study)

# %%
table(efficiency.peer_table(study), study)
