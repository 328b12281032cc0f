// Package configdef declares configuration as data: each key once, with its type, default, checks, documentation and place
// in a form. Parsing, validation, the REST answers, the reference docs and the command line's help all come from a Spec.
//
// All problems of a config come back at once, each bound to its key (I7). The package imports the standard library only.
package configdef
