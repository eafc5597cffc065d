need_node
node_package ""
[ $# -gt 0 ] && npm_install "$@"
printf '%s\n' 'node_modules/' 'dist/' | new_file .gitignore
