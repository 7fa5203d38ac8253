# bash completion of refusion-*: the programs themselves say what a word may become (--complete).
#   . common/base/manual/refusion.bash         make install puts it where bash looks for it

_refusion_words() {
    local program=$1
    shift
    case ${program##*/} in
    refusion-launch | launch.sh) # -n RANKS, then the words of refusion-train
        while [[ $1 == -n || $1 == --restart ]] && (($# > 2)); do shift 2; done
        program=${program%/*}/refusion-train
        [[ -x $program ]] || program=refusion-train
        ;;
    esac
    "$program" --complete "$@" 2>/dev/null
}

_refusion() {
    local line=${COMP_LINE:0:COMP_POINT} word files= current behind
    local -a words
    read -ra words <<<"$line" # the shell's own words end at = and :
    [[ $line == *[[:space:]] ]] && words+=("")
    words[0]=${words[0]/#\~/$HOME}
    current=${words[${#words[@]} - 1]}
    behind=${current##*[=:]} # what the shell replaces
    COMPREPLY=()
    while IFS=$'\t' read -r word _; do
        if [[ $word == FILE ]]; then
            files=1
        else
            COMPREPLY+=("${word:${#current}-${#behind}}")
        fi
    done < <(_refusion_words "${words[@]}")
    if [[ -n $files ]]; then
        ((${#COMPREPLY[@]})) || compopt -o filenames 2>/dev/null # else = of the words would be escaped
        while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$behind")
    fi
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}

complete -F _refusion refusion-data refusion-convert refusion-train refusion-infer refusion-eval refusion-serve \
    refusion-launch
