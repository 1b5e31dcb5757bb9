# %% [markdown]
# # Filtered memory (ConvLuna)
#
# [On Difficulties of Attention Factorization through Shared Memory](https://arxiv.org/abs/2404.00798) (2404.00798)
# looks at models like Luna, whose sequence talks to itself through a small shared memory. It claims that reaching the
# memory by attention alone is not good, that filtering the input before it meets the memory helps considerably, that
# memories degrade during training, and that one single cell can beat the transformer.
#
# **No table or figure of the paper could be read**: only its title, abstract and opening, a summary of it, and its
# authors' code. So no published number stands here. The figures are our questions to it. Here: two tasks of the Long
# Range Arena (one where said), 2 layers of 64, at most 512 symbols, minutes on one core. Luna comes in two readings:
# `luna`, as its own authors built it, and `luna_shared`, as ConvLuna's authors did, from which ConvLuna is four steps
# away.

# %%
from analysis.claims import filtered_memory as filtered_memory_claims
from analysis.notebook import show, table, verdicts
from analysis.papers import filtered_memory
from analysis.studies import load_study

LIVE = False  # True: also the runs in your own store

sizes = load_study("filtered_sizes", live=LIVE)
decomposition = load_study("filtered_decomposition", live=LIVE)
filters = load_study("filtered_filters", live=LIVE)
degradation = load_study("filtered_degradation", live=LIVE)
temperature = load_study("filtered_temperature", live=LIVE)

# %% [markdown]
# ## Down to one cell
#
# How small may the memory be? Accuracy with 1 to 64 cells, for both readings of Luna and for ConvLuna; the transformer
# has no memory and is a line across. A summary of the paper says that one cell beats it in some cases, without saying
# where.

# %%
show(filtered_memory.sizes_figure(sizes), "filtered_memory_sizes", sizes)

# %%
table(filtered_memory.sizes_table(sizes), sizes)

# %% [markdown]
# ## Which of the four changes matters
#
# ConvLuna's code differs from its Luna in a filter on what is packed, values that are not projected, a learned
# temperature of packing, and unpacking without a scale; its text names the first and the third. Here each stands
# alone, as a difference to Luna, seed by seed; whether the paper separates them is not known.

# %%
show(filtered_memory.decomposition_figure(decomposition), "filtered_memory_decomposition", decomposition)

# %% [markdown]
# The same against `luna_shared`, from which each change is exactly one step.

# %%
show(
    filtered_memory.decomposition_figure(decomposition, "luna_shared"),
    "filtered_memory_decomposition_shared",
    decomposition,
)

# %%
table(filtered_memory.decomposition_table(decomposition), decomposition, note="g is Hedges' effect size.")

# %% [markdown]
# ## Which filter
#
# Its code knows convolution and max pooling, and uses convolution over 4 tokens at stride 1. Ours tries both kinds
# over 2, 4 and 8 tokens at strides 1 and 2, on one task, with the other three changes on; without a filter is a line
# across.

# %%
show(filtered_memory.filters_figure(filters), "filtered_memory_filters", filters)

# %% [markdown]
# ## Does the memory degrade
#
# A summary says that memory vectors collapse during training; how the paper measures that is not known, and its code
# computes nothing of the kind. Our measures at each validation: the effective rank of the memory's rows, the mean
# cosine of two rows, and how evenly packing and unpacking spread over what they read (1: all alike).

# %%
show(filtered_memory.degradation_figure(degradation), "filtered_memory_degradation", degradation)

# %%
table(filtered_memory.degradation_table(degradation), degradation)

# %% [markdown]
# ## Temperature
#
# Its packing logits are divided by a learned number, and its unpacking logits by nothing, the latter by an oversight;
# Luna divides both by the root of a head's width. All six combinations, on one task.

# %%
show(filtered_memory.temperature_figure(temperature), "filtered_memory_temperature", temperature)

# %% [markdown]
# ## Claims
#
# What our runs say of what the paper is known to say, by the rule of `analysis/statistics.py`. Two claims are our own
# questions to its code.

# %%
verdicts(filtered_memory_claims.CLAIMS, live=LIVE)
