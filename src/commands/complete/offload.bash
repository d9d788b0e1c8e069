# Completion of 'offload' for bash. The program itself finds the candidates: names of machines are in the machine file.

_offload() {
    local words current value help breaks prefix
    # Bash splits words at ':' and '='. The line itself has them whole. The x keeps an empty word at its end.
    read -a words <<< "${COMP_LINE:0:COMP_POINT}x"
    current=${words[-1]%x}
    words[-1]=$current
    COMPREPLY=()
    [[ $COMP_WORDBREAKS == *:* ]] && breaks+=':'
    [[ $COMP_WORDBREAKS == *=* ]] && breaks+='='
    # Bash replaces only what follows the last of these.
    [[ -n $breaks ]] && prefix=${current%"${current##*[$breaks]}"}
    while IFS=$'\t' read -r value help; do
        COMPREPLY+=("$(printf %q "${value#"$prefix"}")")
    done < <(offload complete "$((${#words[@]} - 1))" -- "${words[@]}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[/=] ]]; then
        compopt -o nospace
    fi
}

complete -o bashdefault -o default -F _offload offload
