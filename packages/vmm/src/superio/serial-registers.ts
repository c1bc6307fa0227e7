/*
 * Registers of the 16550A UART.
 * Texas Instruments TL16C550C data sheet, "Register Selection" and "Summary of Accessible Registers".
 */

/** Registers by offset; the first two are the divisor latch while LCR has DLAB set. */
export const DATA_OFFSET = 0
export const IER_OFFSET = 1
/** IIR when read, FCR when written. */
export const IIR_OFFSET = 2
export const LCR_OFFSET = 3
export const MCR_OFFSET = 4
export const LSR_OFFSET = 5
export const MSR_OFFSET = 6
export const SCR_OFFSET = 7
/** Number of ports. */
export const SERIAL_SIZE = 8

/** Interrupt enable register: received data, transmitter empty, line status, modem status. */
export const IER_RDA_BIT = 0x01
export const IER_THRE_BIT = 0x02
export const IER_MSI_BIT = 0x08
export const IER_MASK = 0x0f

/** Interrupt identification, by falling priority. */
export const IIR_RDA = 0x04
export const IIR_CHARACTER_TIMEOUT = 0x0c
export const IIR_THRE = 0x02
export const IIR_MODEM_STATUS = 0x00
export const IIR_NONE = 0x01
/** Both set: FIFOs exist and are on. */
export const IIR_FIFO_BITS = 0xc0

/** FIFO control register. */
export const FCR_ENABLE_BIT = 0x01
export const FCR_CLEAR_RECEIVE_BIT = 0x02
export const FCR_TRIGGER_SHIFT = 6
/** Bytes at which received data raises its interrupt, by the two trigger bits. */
export const FCR_TRIGGER_LEVELS = [1, 4, 8, 14] as const

/** Line control register: divisor latch access. */
export const LCR_DLAB_BIT = 0x80
/** 8 data bits, 1 stop bit, no parity. */
export const DEFAULT_LINE_CONTROL = 0x03

/** Modem control register. */
export const MCR_DTR_BIT = 0x01
export const MCR_RTS_BIT = 0x02
export const MCR_OUT1_BIT = 0x04
export const MCR_OUT2_BIT = 0x08
export const MCR_LOOP_BIT = 0x10
export const MCR_MASK = 0x1f

/** Line status register: data ready; transmitter holding register empty, transmitter empty. */
export const LSR_DATA_READY_BIT = 0x01
export const LSR_TRANSMITTER_EMPTY_BITS = 0x60

/** Modem status register: lines in the upper half, "has changed" bits in the lower half. */
export const MSR_CTS_BIT = 0x10
export const MSR_DSR_BIT = 0x20
export const MSR_RI_BIT = 0x40
export const MSR_DCD_BIT = 0x80
export const MSR_TRAILING_RI_BIT = 0x04
/** A terminal is there and ready. */
export const DEFAULT_MODEM_STATUS = MSR_CTS_BIT | MSR_DSR_BIT | MSR_DCD_BIT

/** 9600 baud at 1.8432 MHz. */
export const DEFAULT_DIVISOR = 12
/** Depth of the receive FIFO. */
export const FIFO_SIZE = 16
