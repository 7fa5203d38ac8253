# make compare COMPARE=gpu: the tasks of cpu.sh with a billion tokens an objective, for a machine that
# can. A model fills a GPU; where there are several: train/compare.sh configs/compare/gpu.sh beside=4 gpus=4
. configs/compare/cpu.sh
ranks=1
train_sudoku4=3000000 train_sort=3000000 train_chain=3000000 train_countdown=3000000
larger="model.hidden_size=384 model.intermediate_size=1152 model.num_hidden_layers=8 model.num_attention_heads=6 model.num_key_value_heads=2"
larger="$larger data.row_length=1024 train.batch_rows=64 train.steps=15000"
set_sudoku4="$set_sudoku4 $larger"
set_sort="$set_sort $larger"
set_chain="$set_chain $larger"
set_countdown="$set_countdown $larger"
set_gsm8k="$set_gsm8k $larger"
set_block="objective.block_size=4 data.row_length=1664"
rates_ar="5e-4 1e-3" rates_mdm="5e-4 1e-3" rates_block="5e-4 1e-3" rates_refusion="5e-4 1e-3"
