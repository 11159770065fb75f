#!/usr/bin/env bash
# Remakes the results table of README.md: each row's command for its seeds (0, 1 and 2 unless stated otherwise), its
# evaluation, and the comparison.
# Usage: scripts/reproduce.sh [ROW …], where ROW is one of `rows` below; all of them by default, which takes hours.
# Runs lie under runs/reproduce/ and resume where they were interrupted; remove that folder to start again.
set -euo pipefail
cd "$(dirname "$0")/.."

rows=(mlp lstm_lm lstm_lm_ptb lstm_lm_ptb_fast ngram_ptb seq2seq_dates seq2seq_addition seq2seq_multi30k transformer transformer_multi30k transformer_lm transformer_lm_shakespeare_fast transformer_lm_shakespeare transformer_lm_options word2vec ppmi_svd cbow_ptb dqn dqn_cartpole dqn_acrobot dqn_mountaincar dqn_lunarlander reinforce actor_critic dqn_options
    mlp_mnist_fast mlp_mnist mlp_mnist_permuted cnn_mnist cnn_mnist_deep bf16 defaults)
seeds=(0 1 2)
dlref=dlref
if [[ -x .venv/bin/dlref ]]; then
    dlref=.venv/bin/dlref
fi

# reproduce ROW SPLITS "SELECTION …" [SETTING …]: what is trained, and settings of the evaluation, as data.episodes=100
reproduce() {
    local row=$1 splits=$2 selection runs=() seed split run
    read -ra selection <<<"$3"
    shift 3
    for seed in "${seeds[@]}"; do
        runs+=("runs/reproduce/$row-$seed")
        "$dlref" train "${selection[@]}" seed="$seed" run_dir="runs/reproduce/$row-$seed" resume=auto
    done
    # A run keeps its last evaluation, so each split has its table before the next one is evaluated.
    for split in $splits; do
        for run in "${runs[@]}"; do
            "$dlref" evaluate "$run" --split "$split" "$@"
        done
        echo
        echo "== $row, $split: dlref train ${selection[*]}"
        "$dlref" compare "${runs[@]}"
        echo
    done
}

# What a model that knows only how often each word occurs would reach on the same splits.
unigram() {
    local python
    python="$(dirname "$(command -v "$dlref")")/python"
    "$python" - <<'END'
import torch

from dlref.data.text.python_docs import PythonDocs

data = PythonDocs()
counts = torch.bincount(data.split("train"), minlength=len(data.vocabulary)).double()
for split in ("eval", "test"):
    nll = -(counts / counts.sum()).log()[data.split(split)[1:]].mean()  # every token but the first, as for the model
    print(f"unigram perplexity, {split}: {nll.exp():.1f}")
END
}

if (($# == 0)); then
    set -- "${rows[@]}"
fi
for row in "$@"; do
    if [[ " ${rows[*]} " != *" $row "* ]]; then
        echo "reproduce.sh: there is no row '$row'; choose from ${rows[*]}" >&2
        exit 2
    fi
done
for row in "$@"; do
    case $row in
        mlp) reproduce mlp "eval test" model=mlp ;;
        lstm_lm)
            reproduce lstm_lm "eval test" model=lstm_lm
            unigram
            ;;
        word2vec) reproduce word2vec test model=word2vec ;;
        ppmi_svd) reproduce ppmi_svd test "model=ppmi_svd data=ptb" ;;
        lstm_lm_ptb | ngram_ptb | seq2seq_multi30k | transformer_multi30k | transformer_lm_shakespeare)
            (seeds=(0); reproduce "$row" "eval test" "experiment=$row")
            ;;
        lstm_lm_ptb_fast | transformer_lm_shakespeare_fast) reproduce "$row" "eval test" "experiment=$row" ;;
        # The book's decoders, which know the encoder's last state alone, and attention.
        seq2seq_dates)
            reproduce seq2seq_dates test experiment=seq2seq_dates
            for options in "" reversed peeky; do
                reproduce "seq2seq_dates-${options:-plain}" test \
                    "experiment=seq2seq_dates network.attention=null network.bidirectional=false${options:+ network.$options=true}"
            done
            ;;
        seq2seq_addition)
            reproduce seq2seq_addition test experiment=seq2seq_addition
            book="experiment=seq2seq_addition schedule=constant optimizer.lr=1e-3 trainer.clip_norm=5 network.attention=null"
            reproduce seq2seq_addition-plain test "$book network.reversed=false network.peeky=false"
            reproduce seq2seq_addition-reversed test "$book network.peeky=false"
            reproduce seq2seq_addition-peeky test "$book network.reversed=false"
            reproduce seq2seq_addition-both test "$book"
            ;;
        transformer | transformer_lm) reproduce "$row" "eval test" "model=$row" ;;
        # One thing changed at a time, in equally many steps.
        transformer_lm_options)
            for change in "" network.norm=layer network.prenorm=false network.positions={learned,sinusoidal} network.qk_norm=false \
                network.activation={relu,gelu} "network.activation=swiglu network.hidden=341" network.zero_init=false \
                network.tied=false "optimizer=adamw optimizer.lr=2e-3"; do
                reproduce "transformer_lm_options-${change// /-}" eval \
                    "experiment=transformer_lm_shakespeare_fast data.held_out=true trainer.max_seconds=null trainer.max_steps=1400 $change"
            done
            ;;
        cbow_ptb) reproduce cbow_ptb test experiment=cbow_ptb ;;
        dqn) reproduce dqn test model=dqn data.episodes=100 ;;
        dqn_cartpole)
            (seeds=({0..19}); reproduce dqn_cartpole test experiment=dqn_cartpole)
            ;;
        dqn_acrobot | dqn_mountaincar | dqn_lunarlander)
            (seeds=({0..4}); reproduce "$row" test "experiment=$row")
            ;;
        # The last weights, not the best ones of the run.
        reinforce | actor_critic)
            (seeds=({0..4}); reproduce "$row" test "model=$row trainer.monitor=null" data.episodes=100)
            ;;
        dqn_options)
            # Each of the four options alone, none and all, early on: in the end nearly all reach the limit.
            for env in cartpole acrobot; do
                steps=$([[ $env == cartpole ]] && echo 5000 || echo 7500)
                for options in none double dueling n_step prioritized "double dueling n_step prioritized"; do
                    plain="experiment=dqn_$env trainer.max_steps=$steps trainer.eval_every=500 objective.double=false data.n_step=1"
                    for option in $options; do
                        case $option in
                            double) plain+=" objective.double=true" ;;
                            dueling) plain+=" network.dueling=true" ;;
                            n_step) plain+=" data.n_step=3" ;;
                            prioritized) plain+=" data.prioritized=true" ;;
                        esac
                    done
                    reproduce "dqn_options-$env-${options// /-}" test "$plain"
                done
            done
            ;;
        mlp_mnist_permuted) reproduce mlp_mnist_permuted test "experiment=mlp_mnist data.permutation=1" ;;
        mlp_mnist_fast | mlp_mnist | cnn_mnist | cnn_mnist_deep) reproduce "$row" test "experiment=$row" ;;
        # Every model= as it is, of which docs/machines.md gives seconds and results by machine.
        defaults)
            for model in configs/model/*.yaml; do
                model=$(basename "$model" .yaml)
                (seeds=(0); reproduce "default-$model" eval "model=$model")
            done
            ;;
        bf16)
            mnist="experiment=mlp_mnist_fast data.eval_size=5000 trainer.max_seconds=null trainer.max_epochs=3"
            for precision in float32 bf16; do
                reproduce "mlp-$precision" eval "model=mlp trainer.precision=$precision"
                reproduce "cnn-$precision" eval "model=cnn trainer.precision=$precision"
                reproduce "mlp_mnist-$precision" eval "$mnist trainer.precision=$precision"
            done
            ;;
    esac
done
