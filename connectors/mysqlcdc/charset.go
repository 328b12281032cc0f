package mysqlcdc

import (
	"fmt"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/traditionalchinese"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/encoding/unicode/utf32"
)

// charset decodes text of one of the server's character sets.
type charset struct {
	name  string
	utf8  bool
	ascii bool // bytes below 0x80 are ASCII
	enc   encoding.Encoding
}

// The server's latin1 is Windows-1252 with the five unused places mapped to themselves.
var charsets = map[string]*charset{
	"utf8mb4": {utf8: true}, "utf8mb3": {utf8: true}, "utf8": {utf8: true}, "ascii": {utf8: true},
	"latin1":   {ascii: true, enc: charmap.Windows1252},
	"latin2":   {ascii: true, enc: charmap.ISO8859_2},
	"latin5":   {ascii: true, enc: charmap.ISO8859_9},
	"latin7":   {ascii: true, enc: charmap.ISO8859_13},
	"greek":    {ascii: true, enc: charmap.ISO8859_7},
	"hebrew":   {ascii: true, enc: charmap.ISO8859_8},
	"cp1250":   {ascii: true, enc: charmap.Windows1250},
	"cp1251":   {ascii: true, enc: charmap.Windows1251},
	"cp1256":   {ascii: true, enc: charmap.Windows1256},
	"cp1257":   {ascii: true, enc: charmap.Windows1257},
	"cp850":    {ascii: true, enc: charmap.CodePage850},
	"cp852":    {ascii: true, enc: charmap.CodePage852},
	"cp866":    {ascii: true, enc: charmap.CodePage866},
	"koi8r":    {ascii: true, enc: charmap.KOI8R},
	"koi8u":    {ascii: true, enc: charmap.KOI8U},
	"macroman": {ascii: true, enc: charmap.Macintosh},
	"tis620":   {ascii: true, enc: charmap.Windows874},
	"gbk":      {ascii: true, enc: simplifiedchinese.GBK},
	"gb2312":   {ascii: true, enc: simplifiedchinese.GBK},
	"gb18030":  {ascii: true, enc: simplifiedchinese.GB18030},
	"big5":     {ascii: true, enc: traditionalchinese.Big5},
	"sjis":     {enc: japanese.ShiftJIS},
	"cp932":    {enc: japanese.ShiftJIS},
	"ujis":     {ascii: true, enc: japanese.EUCJP},
	"eucjpms":  {ascii: true, enc: japanese.EUCJP},
	"euckr":    {ascii: true, enc: korean.EUCKR},
	"ucs2":     {enc: unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM)},
	"utf16":    {enc: unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM)},
	"utf16le":  {enc: unicode.UTF16(unicode.LittleEndian, unicode.IgnoreBOM)},
	"utf32":    {enc: utf32.UTF32(utf32.BigEndian, utf32.IgnoreBOM)},
}

func init() {
	for name, c := range charsets {
		c.name = name
	}
}

// decode returns v as UTF-8. Bytes that stand for no character are an error: text that silently became U+FFFD could
// never be told from what the row holds.
func (c *charset) decode(v []byte) ([]byte, error) {
	out, err := c.enc.NewDecoder().Bytes(v)
	if err != nil {
		return nil, fmt.Errorf("decode %x as %s: %w", head(v), c.name, err)
	}
	for i := 0; i < len(out); {
		r, n := utf8.DecodeRune(out[i:])
		if r == utf8.RuneError {
			// U+FFFD itself can be stored in the Unicode character sets only.
			if n == 1 || c.name != "ucs2" && c.name != "utf16" && c.name != "utf16le" && c.name != "utf32" && c.name != "gb18030" {
				return nil, fmt.Errorf("%x is not valid in character set %s; repair the row, or leave the column out with column.exclude.list", head(v), c.name)
			}
		}
		i += n
	}
	return out, nil
}
