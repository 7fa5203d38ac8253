# make compare COMPARE=cpu: four tasks, three seeds, about 8 hours on 2 cores. It can be killed at any
# moment and goes on where it was.
. configs/compare/decoders.sh
model=configs/compare/model.yaml
objectives="ar mdm block refusion"
tasks="sudoku4 sort chain countdown"
seeds="1 2 3"
within=1
set_refusion="objective.slot_sizes=4,8 decode.slot_size=4"
# Two copies of the response: about as many samples a row as the others have (train_samples tells).
set_block="objective.block_size=4 data.row_length=416"

kind_sudoku4=sudoku4
train_sudoku4=400000 valid_sudoku4=200 test_sudoku4=1000
set_sudoku4="train.steps=4000 decode.gen_length=17"

kind_sort=sort synth_sort="--option parts=8 --option pad=true"
train_sort=400000 valid_sort=200 test_sort=1000
set_sort="train.steps=4000 decode.gen_length=24"

kind_chain=arithmetic synth_chain="--option chain=true --option parts=6 --option pad=true"
train_chain=400000 valid_chain=200 test_chain=1000
set_chain="train.steps=4000 decode.gen_length=32"

kind_countdown=countdown
train_countdown=400000 valid_countdown=200 test_countdown=1000
set_countdown="train.steps=8000 decode.gen_length=32"

set_gsm8k="train.steps=4000 data.row_length=1024 train.batch_rows=8 decode.gen_length=256"
