package rest

import (
	"net/http"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
)

func getOffsets(s *Server, r *http.Request) (int, any, error) {
	o, err := s.opts.Herder.Offsets(r.Context(), seg(r, 1))
	return http.StatusOK, o, err
}

func patchOffsets(s *Server, r *http.Request) (int, any, error) {
	var in api.Offsets
	if err := body(r, &in); err != nil {
		return 0, nil, err
	}
	err := s.opts.Herder.AlterOffsets(r.Context(), seg(r, 1), in)
	return http.StatusOK, api.Message{Message: "The offsets for this connector have been altered successfully"}, err
}

func deleteOffsets(s *Server, r *http.Request) (int, any, error) {
	err := s.opts.Herder.ResetOffsets(r.Context(), seg(r, 1))
	return http.StatusOK, api.Message{Message: "The offsets for this connector have been reset successfully"}, err
}

func topics(s *Server, r *http.Request) (int, any, error) {
	return http.StatusOK, s.opts.Herder.Topics(seg(r, 1)), nil
}

func resetTopics(s *Server, r *http.Request) (int, any, error) {
	return http.StatusAccepted, nil, s.opts.Herder.ResetTopics(r.Context(), seg(r, 1))
}

// unsigned answers where Kafka Connect's workers send each other signed requests.
func unsigned(*Server, *http.Request) (int, any, error) {
	return 0, nil, fault.New(fault.Invalid, "Internal request missing required signature")
}
