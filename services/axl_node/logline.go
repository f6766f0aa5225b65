package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// newLog writes one JSON object per line.
func newLog(out io.Writer, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level}))
}

// yggLog lets Yggdrasil's core write into our log; what it calls info is detail here.
type yggLog struct{ log *slog.Logger }

func (y yggLog) say(at func(string, ...any), text string) {
	at(strings.TrimSpace(text), "source", "yggdrasil")
}

func (y yggLog) Printf(format string, args ...any) { y.say(y.log.Debug, fmt.Sprintf(format, args...)) }
func (y yggLog) Println(args ...any)               { y.say(y.log.Debug, fmt.Sprintln(args...)) }
func (y yggLog) Infof(format string, args ...any)  { y.say(y.log.Info, fmt.Sprintf(format, args...)) }
func (y yggLog) Infoln(args ...any)                { y.say(y.log.Info, fmt.Sprintln(args...)) }
func (y yggLog) Warnf(format string, args ...any)  { y.say(y.log.Warn, fmt.Sprintf(format, args...)) }
func (y yggLog) Warnln(args ...any)                { y.say(y.log.Warn, fmt.Sprintln(args...)) }
func (y yggLog) Errorf(format string, args ...any) { y.say(y.log.Error, fmt.Sprintf(format, args...)) }
func (y yggLog) Errorln(args ...any)               { y.say(y.log.Error, fmt.Sprintln(args...)) }
func (y yggLog) Debugf(format string, args ...any) { y.say(y.log.Debug, fmt.Sprintf(format, args...)) }
func (y yggLog) Debugln(args ...any)               { y.say(y.log.Debug, fmt.Sprintln(args...)) }
func (y yggLog) Traceln(...any)                    {}
