# make demo: sudoku 4x4, three objectives, each decoder at one setting.
model=configs/compare/model.yaml
objectives="${DEMO_OBJECTIVES:-ar mdm refusion}"
tasks="sudoku4"
seeds="1"
out=runs/demo
floor=60
title="make demo: sudoku 4x4"

kind_sudoku4=sudoku4
train_sudoku4=100000 valid_sudoku4=20 test_sudoku4=300
set_sudoku4="train.steps=${DEMO_STEPS:-1200} train.batch_rows=4 train.micro_rows=2 optim.lr=3e-3 decode.gen_length=17"
set_ar="optim.lr=2e-3" # which serves it better than 3e-3
set_refusion="objective.slot_sizes=2,4 decode.slot_size=2"

sweeps_ar="decode.kind=ar"
sweeps_mdm="decode.kind=mdm"
sweeps_refusion="decode.kind=refusion decode.slot_size=2 decode.slot_threshold=0.9 decode.token_threshold=0.4 decode.slot_score=min"
