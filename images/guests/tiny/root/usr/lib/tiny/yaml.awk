# Turns the plain YAML that seeds are written in into a directory tree: one file per scalar below the variable `dir`,
# mappings by key, sequences by three digits (users/000/name). Understands block mappings and sequences, | and >
# blocks, plain and quoted scalars on one line, flow [..] and {..} over any number of lines (so JSON too), and comments.
# Not: anchors, tags, plain or quoted scalars that go on over several lines, keys with other characters than names have.

{ sub(/\r$/, ""); text[++last] = $0 }

END {
    line = 1
    if (next_line()) node(indent(text[line]), "")
    write_all()
}

# Moves to the next line with content; 0 at the end.
function next_line() {
    while (line <= last && text[line] ~ /^[ ]*(#.*)?$|^(---|\.\.\.)[ ]*$/) line++
    return line <= last
}

function indent(s) { match(s, /^ */); return RLENGTH }

function trim(s) { sub(/^[ \t]+/, "", s); sub(/[ \t]+$/, "", s); return s }

function spaces(n) { return sprintf("%" n "s", "") }

function is_item(s) { return s ~ /^-( |$)/ }

# The length of "key:" at the start of s, or 0.
function key_length(s) {
    if (match(s, /^"[^"]*"[ ]*:( |$)/) || match(s, /^'[^']*'[ ]*:( |$)/)) return RLENGTH
    if (match(s, /^[A-Za-z0-9_.\/-][A-Za-z0-9_.\/ -]*:( |$)/)) return RLENGTH
    return 0
}

function child(path, key) {
    gsub(/^["']|["'][ ]*$/, "", key)
    gsub(/[^A-Za-z0-9_.-]/, "_", key)
    if (key ~ /^\.*$/) key = "_"
    return path "/" key
}

function node(at, path,    s) {
    s = substr(text[line], at + 1)
    if (is_item(s)) sequence(at, path)
    else if (key_length(s)) mapping(at, path)
    else { line++; value(trim(s), at, path) }
}

function sequence(at, path,    n, s, rest, column) {
    n = 0
    while (next_line() && indent(text[line]) == at) {
        s = substr(text[line], at + 1)
        if (!is_item(s)) return
        rest = substr(s, 2)
        column = at + 1 + indent(rest)
        rest = trim(rest)
        here = path "/" sprintf("%03d", n++)
        if (rest == "" || rest ~ /^#/) {
            line++
            if (next_line() && indent(text[line]) > at) node(indent(text[line]), here)
            else put(here, "")
        } else if (is_item(rest) || (rest !~ /^[[{"']/ && key_length(rest)) || rest ~ /^"[^"]*"[ ]*:( |$)/) {
            text[line] = spaces(column) rest
            node(column, here)
        } else {
            line++
            value(rest, at, here)
        }
    }
}

function mapping(at, path,    s, length_of_key, key, rest, below) {
    while (next_line() && indent(text[line]) == at) {
        s = substr(text[line], at + 1)
        length_of_key = key_length(s)
        if (!length_of_key || is_item(s)) return
        key = substr(s, 1, length_of_key)
        sub(/[ ]*:[ ]?$/, "", key)
        below = child(path, key)
        rest = trim(substr(s, length_of_key + 1))
        line++
        if (rest != "" && rest !~ /^#/) value(rest, at, below)
        else if (!next_line()) put(below, "")
        else if (indent(text[line]) > at) node(indent(text[line]), below)
        else if (indent(text[line]) == at && is_item(substr(text[line], at + 1))) sequence(at, below)
        else put(below, "")
    }
}

# A value that starts with `s`; its line is already behind us.
function value(s, at, path) {
    if (s ~ /^[|>]/) block(s, at, path)
    else if (s ~ /^[[{]/) {
        flow = s
        position = 1
        flow_node(path)
    } else if (s ~ /^["']/) {
        flow = s
        position = 1
        put(path, quoted())
    } else put(path, plain(s))
}

function plain(s) {
    sub(/[ \t]#.*$/, "", s)
    s = trim(s)
    return s == "~" || s == "null" ? "" : s
}

function block(head, at, path,    width, out, blank, s, folded) {
    folded = head ~ /^>/
    width = -1
    if (match(head, /[1-9]/)) width = at + substr(head, RSTART, 1)
    out = ""
    blank = ""
    for (; line <= last; line++) {
        s = text[line]
        if (s ~ /^ *$/ && (width < 0 || length(s) <= width)) { blank = blank "\n"; continue }
        if (width < 0) { if (indent(s) <= at) break; width = indent(s) }
        if (indent(s) < width) break
        if (folded && out != "") out = blank == "" ? substr(out, 1, length(out) - 1) " " : substr(out, 1, length(out) - 1) blank
        else out = out blank
        blank = ""
        out = out substr(s, width + 1) "\n"
    }
    if (head ~ /-/) sub(/\n$/, "", out)
    if (head ~ /\+/) out = out blank
    put(path, out)
}

# --- flow style: `flow` is the text, `position` where we are; further lines are taken in as needed ---

# Skips blanks and returns the next character, "" at the end of the file.
function peek(    c) {
    for (;;) {
        while ((c = substr(flow, position, 1)) == " " || c == "\t" || c == ",") position++
        if (c != "") return c
        if (line > last) return ""
        flow = text[line++]
        position = 1
    }
}

function flow_node(path,    c, n, key) {
    c = peek()
    if (c == "[") {
        position++
        for (n = 0; (c = peek()) != "]" && c != ""; n++) flow_node(path "/" sprintf("%03d", n))
        position++
    } else if (c == "{") {
        position++
        while ((c = peek()) != "}" && c != "") {
            key = c == "\"" || c == "'" ? quoted() : word("[:,}]")
            if (peek() == ":") position++
            if (peek() == "}") put(child(path, key), "")
            else flow_node(child(path, key))
        }
        position++
    } else if (c == "\"" || c == "'") put(path, quoted())
    else if (c != "") put(path, plain(word("[],}]")))
}

function word(stops,    s) {
    s = substr(flow, position)
    if (match(s, stops)) s = substr(s, 1, RSTART - 1)
    position += length(s)
    if (s == "") position++
    return trim(s)
}

# The quoted scalar at `position`, unescaped; the position moves behind it.
function quoted(    mark, s, taken, out, c) {
    mark = substr(flow, position, 1)
    s = substr(flow, position + 1)
    if (mark == "'") {
        match(s, /^([^']|'')*/)
        position += RLENGTH + 2
        s = substr(s, 1, RLENGTH)
        gsub(/''/, "'", s)
        return s
    }
    match(s, /^([^"\\]|\\.)*/)
    position += RLENGTH + 2
    s = substr(s, 1, RLENGTH)
    out = ""
    while ((taken = index(s, "\\")) > 0) {
        c = substr(s, taken + 1, 1)
        out = out substr(s, 1, taken - 1)
        s = substr(s, taken + 2)
        if (c == "n") out = out "\n"
        else if (c == "t") out = out "\t"
        else if (c == "r") out = out "\r"
        else if (c == "0") out = out ""
        else if (c == "u") { out = out utf8(hex(substr(s, 1, 4))); s = substr(s, 5) }
        else if (c == "x") { out = out utf8(hex(substr(s, 1, 2))); s = substr(s, 3) }
        else out = out c
    }
    return out s
}

function hex(s,    i, n) {
    n = 0
    s = tolower(s)
    for (i = 1; i <= length(s); i++) n = n * 16 + index("0123456789abcdef", substr(s, i, 1)) - 1
    return n
}

function utf8(n) {
    if (n < 128) return sprintf("%c", n)
    if (n < 2048) return sprintf("%c%c", 192 + int(n / 64), 128 + n % 64)
    return sprintf("%c%c%c", 224 + int(n / 4096), 128 + int(n / 64) % 64, 128 + n % 64)
}

# --- the tree ---

function put(path, content) {
    if (path == "") path = "/value"
    if (!(path in tree)) order[++count] = path
    tree[path] = content
}

function write_all(    i, parent, command) {
    for (i = 1; i <= count; i++) {
        parent = order[i]
        sub(/\/[^\/]*$/, "", parent)
        # A key given twice may be a value once and a mapping once: the mapping wins.
        if (parent != "" && !(parent in made)) { made[parent] = 1; command = command " '" dir parent "'" }
    }
    if (command != "") system("mkdir -p" command)
    for (i = 1; i <= count; i++) {
        if (order[i] in made) continue
        printf "%s", tree[order[i]] > (dir order[i])
        close(dir order[i])
    }
}
