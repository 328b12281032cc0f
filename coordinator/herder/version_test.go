package herder

import "testing"

func TestVersionRange(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		spec string
		ok   bool
		yes  []string
		no   []string
	}{
		{"", true, []string{"1.0.0", "9"}, nil},
		{"latest", true, []string{"1.0.0"}, nil},
		{"1.0", true, []string{"1.0", "1.0.0"}, []string{"1.0.1", "1.0.beta"}},
		{"[1,2)", true, []string{"1", "1.9.9"}, []string{"2", "0.9"}},
		{"(1, 2]", true, []string{"1.0.1", "2.0"}, []string{"1.0", "2.0.1"}},
		{"[1.5,)", true, []string{"1.5", "10"}, []string{"1.4"}},
		{"(,1.0]", true, []string{"0.1", "1.0"}, []string{"1.1"}},
		{"[1.0]", true, []string{"1.0"}, []string{"1.1"}},
		{"[[", false, nil, nil},
		{"[2,1]", false, nil, nil},
		{"(1)", false, nil, nil},
		{"[1,2),[3,4)", false, nil, nil},
		{",", false, nil, nil},
	} {
		r, err := parseRange(x.spec)
		if (err == nil) != x.ok {
			t.Errorf("%q: %v", x.spec, err)
			continue
		}
		for _, v := range x.yes {
			if !r.holds(v) {
				t.Errorf("%q should hold %s", x.spec, v)
			}
		}
		for _, v := range x.no {
			if r.holds(v) {
				t.Errorf("%q should not hold %s", x.spec, v)
			}
		}
	}
}
