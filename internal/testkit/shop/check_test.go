package shop

import "testing"

func TestCheck(t *testing.T) {
	t.Parallel()
	ins, up1, up2, del := Made{Change{7, Insert, 1}, 1}, Made{Change{7, Update, 2}, 2}, Made{Change{7, Update, 3}, 3}, Made{Change{7, Delete, 3}, 4}
	read := func(seq uint64) Event { return Event{Change: Change{7, Insert, seq}, Read: true} }
	ev := func(cs ...Made) (out []Event) {
		for _, c := range cs {
			out = append(out, Event{Change: c.Change})
		}
		return out
	}
	for name, c := range map[string]struct {
		made  []Made
		topic []Event
		bad   int
		from  uint64
	}{
		"read, then changes":             {[]Made{ins, up1, up2}, append([]Event{read(1)}, ev(up1, up2)...), 0, 1},
		"read in the middle":             {[]Made{ins, up1, up2}, []Event{{Change: up1.Change}, read(2), {Change: up2.Change}}, 0, 1},
		"all streamed":                   {[]Made{ins, up1, up2, del}, ev(ins, up1, up2, del), 0, 1},
		"touched in the window, no read": {[]Made{ins, up1, up2}, ev(up1, up2), 0, 1},
		"first change lost":              {[]Made{ins, up1, up2}, ev(up2), 1, 1},
		"delete lost":                    {[]Made{ins, up1, up2, del}, append([]Event{read(1)}, ev(up1, up2)...), 1, 1},
		"gone before the start":          {[]Made{ins, up1, up2, del}, nil, 0, 4},
		"lost update":                    {[]Made{ins, up1, up2}, append([]Event{read(1)}, ev(up2)...), 1, 1},
		"doubled":                        {[]Made{ins, up1}, ev(ins, up1, up1), 1, 1},
		"out of order":                   {[]Made{ins, up1, up2}, append([]Event{read(1)}, ev(up2, up1)...), 1, 1},
		"stale read after a change":      {[]Made{ins, up1}, []Event{{Change: up1.Change}, read(1)}, 1, 1},
		"read twice":                     {[]Made{ins}, []Event{read(1), read(1)}, 1, 1},
		"missing altogether":             {[]Made{ins}, nil, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Check(map[uint64][]Made{7: c.made}, map[uint64][]Event{7: c.topic}, c.from)
			if (len(got) > 0) != (c.bad > 0) {
				t.Errorf("findings %q, want some: %v", got, c.bad > 0)
			}
		})
	}
}
