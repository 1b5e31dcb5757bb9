# %% [markdown]
# # Memory that is handed from segment to segment
#
# Four papers: [Memory Transformer](https://arxiv.org/abs/2006.11527) (2006.11527) puts learned memory tokens beside the
# input. [Recurrent Memory Transformer](https://arxiv.org/abs/2207.06881) (RMT, 2207.06881) hands them from one segment
# to the next, and claims to solve copy, reverse and retrieval over more segments than Transformer-XL, with less
# memory. [Scaling to one million tokens](https://arxiv.org/abs/2304.11062) (2304.11062) keeps facts over thousands of
# segments by training on few, then more. [Memformer](https://arxiv.org/abs/2010.06891) (2010.06891) writes slots by
# attention, forgets by a bias, and replays its memories to train with less memory.
#
# Here: 2 layers of 64 from scratch, segments of 24 symbols, minutes on one core; one run meets 1 to 6 segments, where
# the papers train a model for each number. The papers' numbers are hollow and dashed.

# %%
from analysis.claims import recurrent as recurrent_claims
from analysis.notebook import show, table, verdicts
from analysis.papers import memformer, rmt
from analysis.studies import load_study

LIVE = False  # True: also the runs in your own store

segments = load_study("rmt_segments", live=LIVE)
sizes = load_study("rmt_memory_size", live=LIVE)
gradient = load_study("rmt_bptt", live=LIVE)
scaling = load_study("rmt_scaling", live=LIVE)
slots = load_study("memformer_slots", live=LIVE)
replay = load_study("mrbp_memory", live=LIVE)

# %% [markdown]
# ## Number of segments
#
# RMT's figure 3: copy, reverse and retrieval by number of segments. Without recurrence the paper's models fall to
# guessing, and Transformer-XL drops at nine segments of copy. Ours adds Memformer and FAM; the dotted line is the most
# segments of training, all beyond is another length than any that was learned.

# %%
show(
    rmt.segments_figure(segments),
    "recurrent_segments",
    segments,
    note="The paper's points are models of their own; its means are recomputed from the authors' result files.",
)

# %%
table(rmt.segments_table(segments), segments)

# %% [markdown]
# ## Size of the memory
#
# RMT's figures 4 and 8: with a memory of half a segment it still copies and reverses, where Transformer-XL with a cache
# as small is worse. Ours goes from one slot to a whole segment; our Transformer-XL always keeps a whole segment.

# %%
show(rmt.memory_size_figure(sizes), "recurrent_memory_size", sizes)

# %% [markdown]
# ## Depth of the gradient
#
# RMT's tables of language modelling: the first segment that the gradient goes back is worth most. Ours cuts the
# gradient at fixed borders: cut after 1 is the paper's 0, cut after 2 lies between its 0 and 1.

# %%
show(
    rmt.gradient_figure(gradient),
    "recurrent_gradient",
    gradient,
    note="The paper's lines are for segments of 50 word pieces.",
)

# %% [markdown]
# ## Very many segments
#
# Figures 1 and 5 of the scaling paper: facts at the start, anywhere, or two to be combined, kept over segments of
# noise. Trained on one segment nothing is kept; trained on seven, most is kept over thousands. Ours is trained on up to
# 1, 2, 4 and 7 segments, and tested to 256.

# %%
show(
    rmt.scaling_figure(scaling),
    "recurrent_scaling",
    scaling,
    note="What the paper's figure 5 gives as a bound only is left out.",
)

# %% [markdown]
# ## Memformer's slots
#
# Its ablations are of pixels of MNIST, in perplexity. Ours are of copy and of bytes of books, so that only the
# directions compare.

# %%
show(memformer.slots_figure(slots), "recurrent_slots", slots)

# %%
table(memformer.ablation_table(slots), slots, note="The paper's rows as printed.")

# %% [markdown]
# Its figure 6 shows the weights of single writes: one slot that keeps itself, one that is overwritten, one between.
# Ours are means over slots and writes: how much of its attention a slot spends on itself.

# %%
show(memformer.writes_figure(slots), "recurrent_writes", slots)

# %% [markdown]
# ## Memory of training
#
# Memformer's replay (MRBP) keeps the memories of all segments and one segment's activations, and computes the rest
# again. The paper gives one size; ours is a ratio against length, for RMT as well. Checkpointing of single layers is
# not measured here.

# %%
show(memformer.replay_figure(replay), "recurrent_replay", replay)

# %% [markdown]
# ## Memory Transformer
#
# Its numbers are of translation, which nothing here does. Its language model stands in the figure of segments as `mat`.

# %%
table(memformer.translation_table(), note="As printed.")

# %% [markdown]
# ## What our runs say of the papers' claims

# %%
verdicts(recurrent_claims.CLAIMS, live=LIVE)
