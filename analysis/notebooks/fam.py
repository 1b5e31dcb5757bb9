# %% [markdown]
# # TransformerFAM: feedback attention is working memory
#
# [arXiv 2404.09173](https://arxiv.org/abs/2404.09173). A layer with block sliding window attention gets a short list
# of vectors, FAM: the tokens of a block read those of the block before within the ordinary softmax, and after the
# block the same vectors act as queries over it and pass through the same weights. No new weights within a layer, no
# gate. The paper claims that this alone carries a key over 260k tokens, 14 times its training, that windows and other
# recurrent forms do not, and that it costs next to nothing.
#
# Ours: 2 layers from scratch instead of tuned Flan-PaLM checkpoints of 1B to 24B, blocks of 24 symbols (passkey) or
# 64 bytes (books) instead of 1,024 word pieces. The needle stands anywhere in training. The curves of the paper's
# figures 3a, 5, 6, 7 and 9 have no numbers that could be had: there ours stand alone, beside the one length that its
# text names.

# %%
from analysis.claims import fam as fam_claims
from analysis.notebook import show, table, verdicts
from analysis.papers import fam
from analysis.studies import load_study

LIVE = False  # True: also the runs in your own store

passkey, cost = (load_study(name, live=LIVE) for name in ("fam_passkey", "fam_cost"))
length, blocks, position = (load_study(name, live=LIVE) for name in ("fam_length", "fam_blocks", "fam_position"))
passing, rope_base = (load_study(name, live=LIVE) for name in ("fam_rsp", "fam_rope_base"))

# %% [markdown]
# ## Figure 3a: windows and FAM
#
# There: FAM without memory blocks is right up to 260k tokens; windows (M, of so many blocks) gain up to M2, and
# M1_SG, without gradient into the block before, is of use for its own length alone. Ours: the same arms, and a gated
# FAM that the paper has not; a window of m blocks reaches 2m blocks through 2 layers, and cannot be right beyond.

# %%
show(fam.windows_figure(passkey), "fam_windows", passkey, note="Keys at the start, as in the paper.")

# %% [markdown]
# ## Figure 7: other recurrent forms
#
# There: RMT stays below a window of one block, AutoCompressors fall beyond their training. Ours: AutoCompressors are
# RMT with accumulated memories.

# %%
show(fam.rivals_figure(passkey), "fam_rivals", passkey, note="Keys at the start.")

# %% [markdown]
# ## Figure 9: other forms of feedback
#
# There: feeding back whole blocks (FM, appendix C.2) beats windows and is far below FAM; a static summary that is
# renewed from the same query in each block (SUM FAM, C.3) does not solve the task.

# %%
show(fam.feedback_figure(passkey), "fam_feedback", passkey, note="Keys at the start.")

# %% [markdown]
# ## By depth
#
# The paper has keys at the start alone. Ours stand at five depths: what is right at depth 1 may be read without any
# memory.

# %%
show(fam.depth_figure(passkey), "fam_depth", passkey, note="Dashed: the longest length of training.")

# %% [markdown]
# ## Figure 11: attention to FAM
#
# There: maps of single queries, in which tokens read FAM broadly and FAM reads its block selectively. Ours: runs keep
# shares and entropies by layer and head, no map of single queries, so the figure shows these and not the paper's.

# %%
show(fam.shares_figure(passkey), "fam_shares", passkey, note="After training, on eight sequences of training's kind.")

# %% [markdown]
# ## Table 5: the length of FAM
#
# There: 64 slots, a sixteenth of a block, are best on two of three tasks. Ours: passkey at trained lengths and books.

# %%
show(fam.length_figure(length), "fam_length", length)

# %%
table(fam.length_table(length), length)

# %% [markdown]
# ## Tables 9 and 11, figure 3b: memory blocks
#
# There: accuracy on PG-19 hardly depends on the number of memory blocks from one on, and FAM with three is above all
# windows. Ours: bytes of books, FAM and FM by number of memory blocks.

# %%
show(fam.blocks_figure(blocks), "fam_blocks", blocks, note="Figure 3b is table 11 normalised; table 8 is not built.")

# %%
table(fam.blocks_table(blocks), blocks)

# %% [markdown]
# ## Table 6: past FAMs
#
# There: reading more than the last FAM helps no further, on one task.

# %%
show(fam.past_fams_figure(blocks), "fam_past_fams", blocks)

# %% [markdown]
# ## Table 7: the position of FAM
#
# There: the last positions of the block are best, fractional ones behind it as good within .2 points, zero worse.

# %%
show(fam.position_figure(position), "fam_position", position)

# %%
table(fam.position_table(position), position)

# %% [markdown]
# ## Figure 6: random state passing
#
# There: best at .8, by next-token accuracy on PG-19; its points have no numbers. Ours: seven of its twelve
# probabilities.

# %%
show(fam.passing_figure(passing), "fam_passing", passing)

# %% [markdown]
# ## Figure 5: RoPE's base and what FAM is made of
#
# There: without random state passing it is much worse, with a prefix or without positions worse at most bases. Ours
# is without random position offset and random state passing unless an arm is named so.

# %%
show(fam.rope_base_figure(rope_base), "fam_rope_base", rope_base)

# %% [markdown]
# ## Tables 13 and 14: time and memory
#
# There: 1.9 per cent more time at 26k tokens, .5 at 258k, and .1 GB, by inference on TPUv4. Ours: the same ratios,
# streaming (its setting) and training, on small tensors, which show more of it. A stream holds some 10 MiB, of which
# one or two are the allocator's noise: ratios of memory below one are that.

# %%
show(fam.cost_figure(cost), "fam_cost", cost, note="Bands: spread of repetitions.")

# %%
table(fam.cost_table(cost), cost)

# %% [markdown]
# ## What holds
#
# By the rule of `analysis/statistics.py`, from the runs above alone.

# %%
verdicts(fam_claims.CLAIMS, live=LIVE)
