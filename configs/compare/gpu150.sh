# train/compare.sh configs/compare/gpu150.sh beside=4 gpus=2: countdown with 150 M parameters and 2e8 tokens an
# objective, one seed, otherwise as gpu.sh.
. configs/compare/gpu.sh
tasks="countdown" seeds="1"
train_countdown=1500000
larger="model.hidden_size=768 model.intermediate_size=2304 model.num_hidden_layers=22 model.num_attention_heads=12 model.num_key_value_heads=4"
larger="$larger data.row_length=1024 train.batch_rows=64 train.micro_rows=32 optim.lr=6e-4"
set_countdown="$set_countdown $larger train.steps=3050"
