package holm

// Level is how much a message of the log matters.
type Level uint8

// The levels of the log.
const (
	Trace Level = iota
	Debug
	Info
	Warn
	Error
)

// Logger is where messages go: the node's log in a component, standard error in tests.
type Logger struct {
	Enabled func(level Level) bool
	Write   func(level Level, message string)
}

var logger = Logger{
	Enabled: func(Level) bool { return true },
	Write:   func(level Level, message string) { println(level, message) },
}

// LogTo says where messages go. Not for use by hand.
func LogTo(to Logger) { logger = to }

// Enabled says whether a message of this level would be written: ask before composing a costly one.
func Enabled(level Level) bool { return logger.Enabled(level) }

// Log writes a message to the node's log at its level `debug`.
func Log(level Level, message string) {
	if logger.Enabled(level) {
		logger.Write(level, String([]byte(message)))
	}
}

// ReportPanic logs the message of a panic before it ends as a trap, which has none. Not for use by hand.
func ReportPanic() {
	switch words := recover().(type) {
	case nil:
		return
	case error:
		Log(Error, "panic: "+words.Error())
	case string:
		Log(Error, "panic: "+words)
	default:
		Log(Error, "panic")
	}
	panic("reported")
}
