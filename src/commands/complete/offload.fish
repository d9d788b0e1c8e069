# Completion of 'offload' for fish. The program itself finds the candidates: names of machines are in the machine file.

function __offload_candidates
    set -l words (commandline --tokenize --current-process --cut-at-cursor)
    set -l current (commandline --current-token --cut-at-cursor)
    offload complete (count $words) -- $words "$current" 2>/dev/null
end

complete --command offload --no-files --arguments '(__offload_candidates)'
