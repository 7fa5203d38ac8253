# make compare COMPARE=gpu: the tasks of cpu.sh with a billion tokens an objective (four fifths of them for countdown)
# and 14 M parameters, for a machine that can. A model fills a GPU: with two of them
#   train/compare.sh configs/compare/gpu.sh beside=4 gpus=2
# has made all four of a seed in 15 minutes (README.md); each objective and seed can be made on its own.
# rates_OBJECTIVE="5e-4 1e-3 2e-3" has learning rates tried.
. configs/compare/cpu.sh
ranks=1
train_sudoku4=1500000 train_sort=1500000 train_chain=1500000 train_countdown=3000000
larger="model.hidden_size=384 model.intermediate_size=1152 model.num_hidden_layers=8 model.num_attention_heads=6 model.num_key_value_heads=2"
larger="$larger data.row_length=1024 train.batch_rows=64 train.micro_rows=64 optim.lr=1e-3"
set_sudoku4="$set_sudoku4 $larger train.steps=1100"
set_sort="$set_sort $larger train.steps=1100"
set_chain="$set_chain $larger train.steps=1100"
set_countdown="$set_countdown $larger train.steps=12000"
set_gsm8k="$set_gsm8k $larger"
set_block="objective.block_size=4 data.row_length=1664"
rates_ar="" rates_mdm="" rates_block="" rates_refusion=""
