# make compare-quick: sudoku 4x4, one seed, minutes on 2 cores.
. configs/compare/decoders.sh
model=configs/compare/model.yaml
objectives="ar mdm refusion"
tasks="sudoku4"
seeds="1"
floor=60
within=1

kind_sudoku4=sudoku4
train_sudoku4=100000 valid_sudoku4=100 test_sudoku4=300
set_sudoku4="train.steps=1200 decode.gen_length=17" set_refusion="decode.slot_size=4"

sweeps_mdm="
decode.kind=mdm decode.steps=0,8,4 decode.block_length=0
decode.kind=fast-dllm decode.cache=dual decode.threshold=0.5,0.7,0.9 decode.block_length=0"
sweeps_refusion="
decode.kind=refusion decode.slot_size=4 decode.slot_threshold=0.3:0.9:0.2 decode.token_threshold=0.2,0.4
decode.kind=refusion-left-to-right decode.slot_size=4 decode.token_threshold=0.2,0.4"
