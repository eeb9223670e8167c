# Turn apt's lists into rows for COPY: name, section, size, description.
#
# A package list holds one-line descriptions only; the long ones, where the
# machine has them, are in translation files, which must be read first.  The
# two are joined by the sum that both carry.
BEGIN {
	RS = ""
	FS = "\n"
	OFS = "\t"
}

{
	split("", field)
	for (i = 1; i <= NF; i++) {
		if ($i ~ /^[ \t]/)
			field[key] = field[key] "\n" substr($i, 2)
		else {
			key = substr($i, 1, index($i, ":") - 1)
			field[key] = substr($i, length(key) + 3)
		}
	}
}

"Description-en" in field {
	long[field["Description-md5"]] = field["Description-en"]
}

"Filename" in field && !(field["Package"] in seen) {
	seen[field["Package"]] = 1
	text = field["Description"]
	if (field["Description-md5"] in long)
		text = long[field["Description-md5"]]
	gsub(/\\/, "&&", text)
	gsub(/\t/, " ", text)
	gsub(/\n/, "\\n", text)
	print field["Package"], field["Section"], field["Size"], text
}
