# make compare COMPARE=cpu: four tasks, three seeds, about 8 hours on 2 cores. It can be killed at any
# moment and goes on where it was; README.md says how to make it in pieces.
. configs/compare/decoders.sh
model=configs/compare/model.yaml
objectives="ar mdm block refusion"
tasks="sudoku4 sort chain countdown"
seeds="1 2 3"
within=1
# Each objective at the better of two learning rates.
rates_ar="2e-3 4e-3" rates_mdm="2e-3 4e-3" rates_block="2e-3 4e-3" rates_refusion="2e-3 4e-3"
# Two copies of the response: about as many samples a row as the others have (train_samples tells).
set_block="objective.block_size=4 data.row_length=416"
# Slots as wide as what a task writes: two digits and a comma, where there are fields.
set_sudoku4_refusion="objective.slot_sizes=2,4 decode.slot_size=4"
set_sort_refusion="objective.slot_sizes=3 decode.slot_size=3" set_chain_refusion="$set_sort_refusion"
set_countdown_refusion="objective.slot_sizes=2,4 decode.slot_size=4"

kind_sudoku4=sudoku4
train_sudoku4=400000 valid_sudoku4=200 test_sudoku4=1000
set_sudoku4="train.steps=5000 decode.gen_length=17"

kind_sort=sort synth_sort="--option parts=8 --option pad=true"
train_sort=400000 valid_sort=200 test_sort=1000
set_sort="train.steps=5000 decode.gen_length=24"

kind_chain=arithmetic synth_chain="--option chain=true --option parts=6 --option pad=true"
train_chain=400000 valid_chain=200 test_chain=1000
set_chain="train.steps=5000 decode.gen_length=24"

kind_countdown=countdown
train_countdown=400000 valid_countdown=200 test_countdown=1000
set_countdown="train.steps=6000 decode.gen_length=32"

set_gsm8k="train.steps=4000 data.row_length=1024 train.batch_rows=8 decode.gen_length=256"
set_gsm8k_block="data.row_length=1664"

sweeps_sudoku4_refusion="
decode.kind=refusion decode.slot_size=2,4 decode.slot_threshold=0.5,0.9,0.99,0.999 decode.token_threshold=0.4 decode.slot_score=first,min,mean decode.order_bias=1,0.5
decode.kind=refusion-left-to-right decode.slot_size=2,4 decode.token_threshold=0.4"
sweeps_sort_refusion="
decode.kind=refusion decode.slot_size=3 decode.slot_threshold=0.5,0.9,0.99,0.999 decode.token_threshold=0.4 decode.slot_score=first,min,mean decode.order_bias=1,0.5
decode.kind=refusion-left-to-right decode.slot_size=3 decode.token_threshold=0.4"
sweeps_chain_refusion=$sweeps_sort_refusion
sweeps_countdown_refusion=$sweeps_sudoku4_refusion
