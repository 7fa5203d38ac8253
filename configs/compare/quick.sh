# make compare-quick: sudoku 4x4, one seed, minutes on 2 cores.
. configs/compare/decoders.sh
model=configs/compare/model.yaml
objectives="ar mdm block refusion"
tasks="sudoku4"
seeds="1"
floor=60
within=1

kind_sudoku4=sudoku4
train_sudoku4=100000 valid_sudoku4=100 test_sudoku4=300
set_sudoku4="train.steps=1600 train.batch_rows=4 train.micro_rows=2 optim.lr=3e-3 decode.gen_length=17"
set_ar="optim.lr=2e-3" # which serves it better than 3e-3
set_refusion="objective.slot_sizes=2,4 decode.slot_size=4"
# Prompt, and a clean and a noisy copy of a response of 17 rounded up to 20: 7 samples a row, as the
# others have.
set_block="objective.block_size=4 data.row_length=406"

sweeps_mdm="
decode.kind=mdm decode.steps=0,8,4 decode.block_length=0
decode.kind=fast-dllm decode.cache=dual decode.threshold=0.5,0.7,0.9 decode.block_length=0"
sweeps_refusion="
decode.kind=refusion decode.slot_size=2,4 decode.slot_threshold=0.5,0.9,0.99 decode.token_threshold=0.4,0.6 decode.slot_score=first,min decode.order_bias=1,0.5
decode.kind=refusion-left-to-right decode.slot_size=2,4 decode.token_threshold=0.4,0.6"
