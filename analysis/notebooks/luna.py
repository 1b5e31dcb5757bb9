# %% [markdown]
# # Luna
#
# [Luna: Linear Unified Nested Attention](https://arxiv.org/abs/2106.01540) (2106.01540) puts a short sequence *P* of
# learned vectors beside the input: *P* reads the sequence (pack), the sequence reads what was packed (unpack), and *P*
# goes up the layers. Time and memory then grow linearly with the length. The paper claims that this beats the
# transformer and all other efficient ones on the mean of the Long Range Arena with as few as 16 slots, at several
# times its training speed and a fraction of its memory.
#
# Here: the same five tasks, with 2 layers of 64, at most 512 symbols and 4 to 64 slots, minutes on one core; speed is
# that of one sequence a step on one core. Each caption says what else is smaller. The paper's numbers are hollow and
# dashed.

# %%
from analysis.claims import luna as luna_claims
from analysis.notebook import show, table, verdicts
from analysis.papers import luna
from analysis.studies import load_study

LIVE = False  # True: also the runs in your own store

lra = load_study("luna_lra", live=LIVE)
ablations = load_study("luna_memory_ablations", live=LIVE)
efficiency = load_study("luna_efficiency", live=LIVE)

# %% [markdown]
# ## Accuracy by memory size
#
# The paper's table of the Long Range Arena has 16, 128 and 256 slots: 16 are ahead of the transformer, 128 add half a
# point, 256 nothing more. Ours has 4, 16 and 64, beside full, local and linear attention. Sequences are shorter and
# models smaller, so the shape of a line is what may be compared, not its height; in these minutes no model learns
# Retrieval or Pathfinder.

# %%
show(
    luna.memory_size_figure(lra),
    "luna_memory_size",
    lra,
    note="The mean of the five is drawn for arms that have run on all of them.",
)

# %% [markdown]
# The same as a table, above all rows of the paper's. An entry of ours is bold only if its interval overlaps with no
# other's.

# %%
table(luna.lra_table(lra), lra, note="The paper's rows as printed, without intervals or number of seeds.")

# %% [markdown]
# ## What the extra sequence is worth
#
# The paper says that *P* should be carried up the layers, not learned anew in each; its numbers of that were not
# found. It compares tied and untied keys and values in translation. Ours are differences to Luna on two tasks, seed by
# seed; added are one attention for pack and unpack, as ConvLuna's authors read Luna, and a classifier that reads *P*.

# %%
show(luna.ablation_figure(ablations), "luna_ablation", ablations)

# %%
table(luna.ablation_table(ablations), ablations)

# %% [markdown]
# ## Speed and memory against length
#
# The paper's table gives training speed and peak memory over the transformer's on text of 1,000 to 4,000 bytes; only
# its column of 4,000 could be had, through figure 1. Ours are ratios as well, of one step with one sequence on one
# core. Our transformer uses a fused attention that never holds the square of scores, so its memory grows linearly too:
# the paper's savings of memory are against one that does.

# %%
show(
    luna.efficiency_figure(efficiency),
    "luna_efficiency",
    efficiency,
    note="Larger markers are larger memories. Each point is one measurement, not a mean over seeds.",
)

# %%
table(luna.efficiency_table(efficiency), efficiency)

# %% [markdown]
# ## Figure 1: quality, speed, memory
#
# The paper's first figure shows Luna high and to the right with small discs: as accurate as any, fast, and light. Ours
# joins the mean accuracy on four tasks with the speed at the greatest length; an arm is drawn if both are known for
# its memory size, which at laptop scale is 16 slots for Luna.

# %%
show(
    luna.quality_speed_memory_figure(lra, efficiency),
    "luna_quality_speed_memory",
    lra,
    efficiency,
    note="A disc's radius is in proportion to memory; the transformer's is 1 in both panels. Accuracy and cost are of "
    "models of different sizes, as in the two studies.",
)

# %% [markdown]
# ## Claims
#
# What our runs say of what the paper says, by the rule of `analysis/statistics.py`.

# %%
verdicts(luna_claims.CLAIMS, live=LIVE)
